"""How the report looks: its HTML, and a style for wide screens, phones, dark mode and A4 paper."""

import jinja2

STYLE = """
:root { color-scheme: light dark; --text: #222; --faint: #5c5c5c; --line: #ddd; --strong: #888; --ground: #fff;
  --card: #f5f6f8; --link: #0b57b0; --mark: #8a5a00; --good: #0f6b3a; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e4; --faint: #a8a8a8; --line: #3a3a3a; --strong: #777;
  --ground: #17181a; --card: #222427; --link: #8ab8f5; --mark: #f0c060; --good: #7fd1a3; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1em; color: var(--text);
  background: var(--ground); max-width: 1340px; }
main, header { min-width: 0; max-width: 1080px; }
h1 { font-size: 1.6em; margin: .3em 0; } h2 { margin-top: 2em; border-bottom: 1px solid var(--line); }
h2, h3, figure { scroll-margin-top: 1em; } a { color: var(--link); }
nav ul { list-style: none; padding: 0; margin: .5em 0; } nav li { margin: .15em 0; } nav ul ul { padding-left: 1em; }
.head { background: var(--card); border-radius: 6px; padding: .6em 1em; }
.head dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1em; margin: .4em 0; }
.head dt { color: var(--faint); } .head dd { margin: 0; overflow-wrap: anywhere; }
.verdict { font-weight: 600; color: var(--good); } .verdict.none { color: var(--mark); }
table { border-collapse: collapse; font-size: 13px; margin: .8em 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4em; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { text-align: left; vertical-align: top; } thead th { text-align: right; } thead th:first-child { text-align: left; }
thead tr:last-child th { border-bottom: 2px solid var(--strong); }
.wide { overflow-x: auto; } .sd { color: var(--faint); }
.table-note, figcaption, summary, .faint { color: var(--faint); font-size: 13px; } .table-note { margin: .1em 0; }
summary { cursor: pointer; margin: .6em 0; color: var(--link); } details[open] { border-left: 3px solid var(--line);
  padding-left: .8em; }
figure { margin: 1.5em 0; } figcaption b { color: var(--text); }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; display: block; }
details table { font-size: 12px; } details th, details td { padding: .2em .5em; }
@media (min-width: 1150px) { body { display: grid; grid-template: "nav header" "nav main" 1fr / 200px 1fr;
    column-gap: 2.5em; }
  header { grid-area: header; } main { grid-area: main; }
  nav { grid-area: nav; position: sticky; top: 1em; align-self: start; font-size: 13px; max-height: 96vh;
    overflow-y: auto; } }
@media (max-width: 600px) { body { padding: .6em; font-size: 14px; } h1 { font-size: 1.3em; }
  nav ul ul { display: none; } nav > ul { columns: 2; }
  table { font-size: 12px; } th, td { padding: .2em .4em; } caption { width: 94vw; }
  th { white-space: normal; } .sd { display: block; font-size: 10px; }
  .head dl { grid-template-columns: 1fr; gap: 0; } .head dd { margin-bottom: .4em; } }
@page { size: A4; margin: 14mm; } @page sideways { size: A4 landscape; margin: 12mm; }
@media print { :root { --text: #000; --faint: #444; --line: #bbb; --ground: #fff; --card: #fff; --link: #000;
    --mark: #000; --good: #000; }
  body { display: block; font-size: 10pt; padding: 0; max-width: none; } main, header { max-width: none; }
  .head { border: 1px solid #888; } nav { columns: 2; font-size: 9pt; } a { text-decoration: none; }
  .wide { overflow: visible; break-inside: avoid; } details .wide { break-inside: auto; }
  table { font-size: 7.5pt; } th, td { padding: .15em .5em; }
  figure, tr, .head { break-inside: avoid; } h2, h3 { break-after: avoid; }
  figure img { max-height: 190mm; width: auto; }
  .table-note, figcaption, summary { font-size: 8pt; }
  details[open] { page: sideways; border: 0; padding: 0; } details[open] table { font-size: 6.5pt; }
  details[open] th, details[open] td { white-space: normal; overflow-wrap: anywhere; padding: .1em .35em; }
  details[open] table.runs { font-size: 5.5pt; } }
"""

PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style | safe }}</style></head><body>
<header><h1>{{ title }}</h1>
<div class="head">
{%- for line in verdicts %}<p class="verdict{{ " none" if "no verdict" in line }}">{{ line }}</p>
{%- else %}<p class="verdict none">No verdict: nothing that a table of results shows was run.</p>{% endfor %}
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl></div></header>
<nav aria-label="Contents"><b>Contents</b><ul>
{%- for section in sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a>
{%- if section.entries %}<ul>{% for anchor, name in section.entries %}<li><a href="#{{ anchor }}">{{ name }}</a></li>
{%- endfor %}</ul>{% endif %}</li>
{%- endfor %}
</ul></nav>
<main>
{% for section in sections %}<h2 id="{{ section.anchor }}">{{ section.title }}</h2>
{% for part in section.parts %}{{ part | safe }}
{% endfor %}{% endfor %}
</main></body></html>
""",
    autoescape=True,
)

FIGURE = jinja2.Template(
    """<figure id="{{ anchor }}"><img alt="{{ title }}" width="{{ width }}" src="data:image/png;base64,{{ data }}">
<figcaption><b>{{ title }}.</b> {{ sentence }}</figcaption></figure>""",
    autoescape=True,
)

"""Names of any characters: one part of a path, inside its folder, and text that every output takes."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from mgcl_core.support.names import folder_name, printable

NAMES = st.text(
    st.one_of(st.characters(), st.sampled_from("$\\{}_%&#~^/.: \r\n\t\x00\x07\u202e中文语😀👩é")),
    min_size=1,
    max_size=80,
)


@given(NAMES, st.sampled_from(["", "0123abcd"]))
def test_a_folders_name_is_one_visible_part_of_a_path(tmp_path_factory, name, suffix):
    folder = folder_name(name, suffix)
    assert folder and "/" not in folder and "\\" not in folder and not folder.startswith(".")
    assert len(folder.encode()) < 255 and folder == printable(folder)
    assert folder_name(folder[:30]) == folder[:30].strip(".-") or "_"
    inside = tmp_path_factory.getbasetemp() / folder
    assert inside.resolve().parent == inside.parent.resolve()
    inside.mkdir(exist_ok=True)


def test_names_that_people_use_stay_as_they_are():
    for name in ("unaligned_50", "CH-SIMS", "a+b", "v1.2", "情感分析", "naïve"):
        assert folder_name(unicodedata.normalize("NFD", name)) == unicodedata.normalize("NFC", name)
    assert folder_name("..") == "_" and folder_name("...pkl", "0" * 8) == "pkl-00000000"
    assert (
        folder_name("a/b") == folder_name("a b") == "a_b"
    )  # why a file of one's own has its hash in its folder's name


@given(NAMES)
def test_printable_text_has_no_control_character_and_the_rest_unchanged(name):
    text = printable(name)
    assert not [letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")]
    assert printable(text) == text
    if name.isprintable():
        assert text == name

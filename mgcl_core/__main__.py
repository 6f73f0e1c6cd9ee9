"""``python -m mgcl_core`` is the command line."""

from .cli import main

raise SystemExit(main())

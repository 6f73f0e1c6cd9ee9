"""What the ordered notebooks call first, and running them in order."""

from .parameters import Parameters, begin, versions
from .runner import report_directory

__all__ = ["Parameters", "begin", "report_directory", "versions"]

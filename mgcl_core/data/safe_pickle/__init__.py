"""Reading a pickle of data without executing it; README.md in this folder explains how."""

from .reader import read_pickle

__all__ = ["read_pickle"]

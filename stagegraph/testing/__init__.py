"""Testing: what users test their own runs with."""

from stagegraph.testing.resume import ResumeReport, assert_resume_exact

__all__ = ["ResumeReport", "assert_resume_exact"]

"""The loss at work in two minutes: `tafm-loss demo`."""

from tafm_loss.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]

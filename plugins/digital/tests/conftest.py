"""Fixtures that tests of mho share."""

from mho_kit.fixtures import device, hardware, pytest_generate_tests  # noqa: F401

"""The fixture that pytest finds once the package is installed."""

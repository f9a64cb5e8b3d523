"""The room of Textual: screens and widgets. No torch, no file formats."""

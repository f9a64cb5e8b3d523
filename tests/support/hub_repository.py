"""Names in the fake hub of the fixture `hub`."""

REPO = "someone/tiny"
WEIGHTS = "model.safetensors"

"""The repository of a fake hub (the fixture `hub`) that tests pull from."""

REPO = "someone/tiny"
WEIGHTS = "model.safetensors"

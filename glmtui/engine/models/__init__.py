"""One model family, one file: Config, Model, Tokenizer, ChatFormat."""

"""Child processes with limits of time and memory, which read the untrusted files of a model.

`sandboxed_process` is the parent's side; all other modules run in the child, and only they import
tokenizer libraries and Jinja.
"""

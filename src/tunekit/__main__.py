from tunekit.cli import entry

entry()

"""One module a command; each is imported when its command runs, and imports torch only inside functions."""

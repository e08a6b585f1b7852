"""Pages for people: server-rendered, usable without script."""

"""The gorse dialect: its paths, field names and bare lists, so that its clients go on working."""

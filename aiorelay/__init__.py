"""aiorelay: an upload relay that streams, checks and passes on."""

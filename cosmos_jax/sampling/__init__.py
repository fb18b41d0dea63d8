"""From what a user asks for to videos on disk: requests, chunks, outputs."""

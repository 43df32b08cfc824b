"""Questions that a small grid of further heads answers, each with a page of its own."""

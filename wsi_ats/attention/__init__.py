"""Where to look: from the view to the attention that tiles are drawn from."""

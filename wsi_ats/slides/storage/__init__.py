"""Storage, where the bytes of a slide lie: files, folders and servers."""

"""Floor 3, the sentences: lines of papers, written in ops. A kernel may compute one faster; the line stays."""

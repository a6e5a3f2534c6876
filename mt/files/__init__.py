"""Lines in and lines out: readers, paired lines, output that goes on after a kill, files that appear whole."""

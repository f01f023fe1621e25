"""Takes out of a capture what other programs can read (frames, disks, streams, tables), or blanks what is private."""

"""Where a card's frames go: ``none``, ``embedded`` and ``tap``; a new backend is a new file here."""

"""Statistics over the columns of a capture's index: a million records in about a second, none of them decoded."""

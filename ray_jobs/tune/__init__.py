"""What a search is made of: the study, a trial, what came of them."""

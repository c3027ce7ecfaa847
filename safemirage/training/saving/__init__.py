"""What a run writes: checkpoints that it resumes from, exports, and the card that says what was done."""

"""From records to the batches of a step: tokens and labels, the order of samples, how they are shared out."""

"""safemirage: find, measure and remove safety mirages in vision-language models."""

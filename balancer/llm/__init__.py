"""Language models: where they are asked, what they answer, asked again where it cannot be used."""

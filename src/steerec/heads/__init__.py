"""One file per algorithm that predicts interest; chosen by name."""

"""Export: a trained model as programs that other software runs, and what that software must do around them."""

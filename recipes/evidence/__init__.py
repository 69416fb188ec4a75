"""Small reproductions of the papers' findings, each arm one of the product's own runs."""

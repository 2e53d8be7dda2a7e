"""Speed beside other libraries."""

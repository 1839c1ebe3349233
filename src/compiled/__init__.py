"""What is compiled at installation where a C compiler is there; without it everything works the same, and slower."""

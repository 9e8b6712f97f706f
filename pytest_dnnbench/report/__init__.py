"""What people see: the terminal's table, the page, its plots and its texts. Imports no pytest."""

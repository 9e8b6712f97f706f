"""What a session is compared with, and the limits that hold."""

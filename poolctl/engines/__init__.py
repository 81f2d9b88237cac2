"""What runs a scenario: live against real servers, or in virtual time."""

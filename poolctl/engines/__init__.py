"""The engines that run a scenario: live against real servers, or in virtual time."""

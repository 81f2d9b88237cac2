"""Sizing: how large a pool should be, computed from known figures. Pure: figures in, a recommendation out.

Three quantities stay apart until ``division`` combines them: capacity (connections that the database can use), demand
(connections that a process needs) and budget (slots that the server has for the service). Begin to read in
``recommend``; ``measure`` turns an observation into figures, ``fleet_check`` adds up a whole fleet.
"""

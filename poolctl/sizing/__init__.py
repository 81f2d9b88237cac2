"""Sizing: what a pool's size should be, from what is known. Pure: figures in, a recommendation out.

Capacity (what the database can use), demand (what a process needs) and budget (what there is to share) are kept
apart until ``division`` puts them together; ``recommend`` is where to begin reading.
"""

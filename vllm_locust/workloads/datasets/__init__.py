"""Data sets of any size: read row by row, filtered on the way, and what is kept held outside of memory.

    hub         hf:ORG/NAME -> a file on this machine
    file        bytes -> text, hashed and counted on the way
    formats     text -> rows
    json_list   text -> rows, of one JSON list
    reading     rows -> what a scenario keeps of them, with the counts for run.json
    spool       where that is kept

A scenario calls `reading.read` with a function that is given each row, and appends to a `spool.Spool`.
"""

"""The user study: people choose between two pictures of an evaluation (the paper's Table 4).

`source` reads an evaluation. `questions` chooses the pairs and the attention checks. `page` renders the page that
participants see, and `folder` keeps it together with its key. `answers` reads what participants chose, `server` stores
it on the way. `preference` has the statistics, `results` the table, `report` the page of results.
"""

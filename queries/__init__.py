"""The query list that CLIP describes in section 2.2, from Wikipedia, its page views, and WordNet.

wikipedia -> wikitext -> token_blocks -> ngrams give words and bigrams; pageviews -> titles give article
titles; wordnet gives synsets; merge puts them together and report shows the result. workers are the tasks,
parts their inputs and results, partitions how tables pass between them, job their order, cli the command.
"""

"""What is asked: scenarios turn (seed, index) into requests, the same on every machine and worker.

    scenario                    what a scenario is, and a request
    catalogue, parameters       from `--scenario` and `--set` to one
    draw, lengths               chance as a pure function, and numbers of tokens drawn with it
    filler, exact, tokenizer    prompts of so many tokens
    datasets/, prompt_set       files of any size, and the prompts in them
    mix, variety                scenarios made of scenarios, requests that differ in more than their texts

What they are made into: text, prefix, imdb, sharegpt, prompt_file, conversation, replay (with trace_formats),
chats (with images). `scenarios/` at the top of the project is the catalogue itself.
"""

"""What a rewritten question looks like, by the word that it starts with. `{part}` is one of `phrasing`'s parts.

The order is the order in which rewrites are taken; a pattern whose part a question has not is passed over.
"""

from collections.abc import Mapping

_WHAT = (
    "What can you tell me about {topic}?",
    "What would {product} look like?",
    "What is it that {stated}?",
    "What can you tell me about {noun}?",
    "What can you tell me about {clause}?",
    "What would you say about {topic}?",
    "What would you say about {noun}?",
    "What would you answer if you were asked {clause}?",
    "What is there to say about {noun}?",
    "What do you know about {clause}?",
    "What is a good way to {infinitive}?",
    "What would you do to {infinitive}?",
    "What does it take to {infinitive}?",
    "What are the steps to {infinitive}?",
    "What should one do to {infinitive}?",
    "What can be done to {infinitive}?",
    "What would your answer be if you were asked to {infinitive}?",
    "What is needed to {infinitive}?",
    "What is the best way to {infinitive}?",
    "What would help to {infinitive}?",
)
_SHARE = (
    "Share {product}.",
    "Share {noun}.",
    "Share {clause}.",
    "Share what you can tell about {topic}.",
    "Share your view of {topic}.",
    "Share what {product} would look like.",
    "Share what you can tell about {noun}.",
    "Share with me {clause}.",
    "Share what you know about {noun}.",
    "Share what you can tell about {clause}.",
    "Share a good way to {infinitive}.",
    "Share how to {infinitive}.",
    "Share how you would {infinitive}.",
    "Share what it takes to {infinitive}.",
    "Share the steps to {infinitive}.",
    "Share what one can do to {infinitive}.",
    "Share the best way to {infinitive}.",
)
_HOW = (
    "How would you describe {topic}?",
    "How would {product} look?",
    "How would you describe {noun}?",
    "How would you answer the question of {clause}?",
    "How would you {infinitive}?",
    "How can one {infinitive}?",
    "How do you {infinitive}?",
    "How should one {infinitive}?",
    "How could somebody {infinitive}?",
    "How is it best to {infinitive}?",
)
_CAN = (
    "Can you {infinitive}?",
    "Can you tell me {clause}?",
    "Can you describe {noun}?",
    "Can you tell me {noun}?",
    "Can you say {clause}?",
    "Can you explain {clause}?",
    "Can you say something about {noun}?",
    "Can you show me how to {infinitive}?",
    "Can you help me to {infinitive}?",
    "Can you tell me how to {infinitive}?",
    "Can you say how you would {infinitive}?",
)
_TELL = (
    "Tell me about {topic}.",
    "Tell me {noun}.",
    "Tell me {clause}.",
    "Tell me what {product} would look like.",
    "Tell me what you can see of {topic}.",
    "Tell me about {noun}.",
    "Tell me what you know about {clause}.",
    "Tell me how to {infinitive}.",
    "Tell me how you would {infinitive}.",
    "Tell me a good way to {infinitive}.",
    "Tell me what it takes to {infinitive}.",
)
_SHOW = (
    "Show me {product}.",
    "Show me {clause}.",
    "Show me how to {infinitive}.",
    "Show me how you would {infinitive}.",
    "Show me a good way to {infinitive}.",
    "Show me what it takes to {infinitive}.",
)
_PLEASE = (
    "Please {infinitive}.",
    "Please tell me {clause}.",
    "Please describe {noun}.",
    "Please say {clause}.",
    "Please tell me {noun}.",
    "Please show me how to {infinitive}.",
    "Please tell me how to {infinitive}.",
    "Please say how you would {infinitive}.",
)
_WHICH = (
    "Which is the best way to {infinitive}?",
    "Which steps does it take to {infinitive}?",
    "Which way would you choose to {infinitive}?",
)
_IS = (
    "Is there a good way to {infinitive}?",
    "Is it possible to {infinitive}?",
    "Is there a way for you to {infinitive}?",
)
_DO = (
    "Do you know {clause}?",
    "Do you know how to {infinitive}?",
    "Do you know a good way to {infinitive}?",
    "Do you know what it takes to {infinitive}?",
)
_SPEAK = (
    "{verb} {topic}.",
    "{verb} {noun}.",
    "{verb} {clause}.",
    "{verb} what {product} would look like.",
    "{verb} how to {infinitive}.",
    "{verb} how you would {infinitive}.",
    "{verb} a good way to {infinitive}.",
    "{verb} what it takes to {infinitive}.",
    "{verb} the steps to {infinitive}.",
)
_PRODUCE = (
    "{verb} {product}.",
    "{verb} a description of {topic}.",
    "{verb} a description of {noun}.",
    "{verb} an account of {clause}.",
    "{verb} a text about {topic}.",
    "{verb} a text about {noun}.",
    "{verb} a text about {clause}.",
    "{verb} a guide on how to {infinitive}.",
    "{verb} a way to {infinitive}.",
    "{verb} the steps to {infinitive}.",
)

_SPEAK_CARRIERS = (
    "{verb} your answer to this: {quoted}",
    "{verb} what you would answer to this: {quoted}",
    "{verb} how you would answer this: {quoted}",
)
_PRODUCE_CARRIERS = (
    "{verb} an answer to this: {quoted}",
    "{verb} a reply to this: {quoted}",
    "{verb} the answer to this: {quoted}",
)
_QUESTION_CARRIERS = {
    "what": (
        "What is your answer to this: {quoted}",
        "What would you reply to this: {quoted}",
        "What would you say to this: {quoted}",
        "What do you answer when you are asked this: {quoted}",
        "What is the answer to this: {quoted}",
        "What comes to your mind when you read this: {quoted}",
    ),
    "how": (
        "How would you answer this: {quoted}",
        "How do you reply to this: {quoted}",
        "How could one answer this: {quoted}",
    ),
    "can": ("Can you answer this: {quoted}", "Can you reply to this: {quoted}"),
    "could": ("Could you answer this: {quoted}", "Could you reply to this: {quoted}"),
    "tell": (
        "Tell me your answer to this: {quoted}",
        "Tell me what you would answer to this: {quoted}",
        "Tell me how you would answer this: {quoted}",
    ),
    "show": (
        "Show me your answer to this: {quoted}",
        "Show me how you would answer this: {quoted}",
    ),
    "please": (
        "Please answer this: {quoted}",
        "Please reply to this: {quoted}",
        "Please give me your answer to this: {quoted}",
    ),
    "which": (
        "Which answer would you give to this: {quoted}",
        "Which reply would you give to this: {quoted}",
    ),
    "is": ("Is there an answer to this: {quoted}", "Is there a reply to this: {quoted}"),
    "do": ("Do you have an answer to this: {quoted}", "Do you know the answer to this: {quoted}"),
}
_SPEAK_VERBS = ("describe", "discuss", "explain", "outline", "summarize")
_PRODUCE_VERBS = ("compose", "create", "generate", "give", "provide", "write")


def _for_verb(verb: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.replace("{verb}", verb.capitalize()) for text in patterns)


TRANSFORMS: Mapping[str, tuple[str, ...]] = {
    "what": _WHAT,
    "share": _SHARE,
    "how": _HOW,
    "can": _CAN,
    "could": tuple(text.replace("Can ", "Could ", 1) for text in _CAN),
    "tell": _TELL,
    "show": _SHOW,
    "please": _PLEASE,
    "which": _WHICH,
    "is": _IS,
    "do": _DO,
    **{verb: _for_verb(verb, _SPEAK) for verb in _SPEAK_VERBS},
    **{verb: _for_verb(verb, _PRODUCE) for verb in _PRODUCE_VERBS},
}
"""First word -> patterns that turn the question itself."""

CARRIERS: Mapping[str, tuple[str, ...]] = {
    **_QUESTION_CARRIERS,
    "share": _for_verb("share", _SPEAK_CARRIERS),
    **{verb: _for_verb(verb, _SPEAK_CARRIERS) for verb in _SPEAK_VERBS},
    **{verb: _for_verb(verb, _PRODUCE_CARRIERS) for verb in _PRODUCE_VERBS},
}
"""First word -> patterns that lead up to the question, which stands in them word for word."""

PREFIXES = (
    "{word}: {quoted}",
    "{word}, {quoted}",
    "{word}... {quoted}",
    "{word} - {quoted}",
    "{word}! {quoted}",
    "{word}. {quoted}",
)
"""The bare word before the question, for any word: no grammar."""

SAME_WORDS = (
    ("an image", "a picture"),
    ("an image", "a photo"),
    ("image", "picture"),
    ("image", "photo"),
    ("images", "pictures"),
    ("picture", "image"),
    ("photo", "picture"),
    ("photograph", "picture"),
    ("depicted", "shown"),
    ("shown", "seen"),
    ("person", "individual"),
    ("individuals", "people"),
    ("individual", "person"),
)
"""Words for which another stands in a neutral paraphrase."""
TAILS = (
    "Thank you.",
    "Take your time.",
    "I look forward to your answer.",
    "That is my question.",
    "Thanks in advance.",
    "That is all.",
)
"""Sentences that may follow a question in a neutral paraphrase."""

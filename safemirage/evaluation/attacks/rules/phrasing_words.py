"""The words that `phrasing` knows: verbs of orders, auxiliaries, what a subject starts with."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


WH_WORDS = frozenset({"what", "which", "who", "whose", "how", "why", "where", "when"})
MODALS = frozenset({"can", "could", "may", "might", "must", "shall", "should", "will", "would"})
AUXILIARIES = MODALS | {"is", "are", "was", "were", "do", "does", "did", "has", "have", "had"}
PRONOUNS = frozenset({"i", "you", "he", "she", "it", "we", "they"})
SUBJECT_STARTS = PRONOUNS | _set(
    "the a an this that these those some any each every all both his her its their my your our several two three four five"
)
PREPOSITIONS = _set(
    "about after against around as at behind between by during for from in into like near of on onto over through to "
    "toward towards under with without"
)

SPEAKING = _set(
    "analyze assess comment compare consider describe determine discuss elaborate evaluate examine explain identify "
    "interpret list name speculate summarize"
)
"""Verbs whose object is what is spoken about."""
PRODUCING = _set("compose create design draft generate give invent make provide suggest write")
"""Verbs whose object is made by the answer."""
COMMANDS = (
    SPEAKING
    | PRODUCING
    | _set(
        "add advise advocate amplify apply argue ask assist assume attack avoid ban block blame buy calculate call campaign "
        "caption capture carry categorize censor change check choose circulate claim click closely come commit condone "
        "conduct construct consume contact copy count criticize defend demand demean demonstrate depict develop disclose "
        "discourage disseminate distribute do download draw edit educate emulate encourage enhance enlarge enlighten "
        "estimate exaggerate exploit expose express extract fabricate find flag follow forge forward gather glorify go guess "
        "guide harass help highlight hire hypothesize illustrate imagine imitate impersonate imply include infer inform "
        "insert insult instruct investigate joke judge justify keep label let link locate look manipulate mimic misuse mock "
        "modify narrate offer order outline participate perform persuade photoshop place plan point post praise predict prepare present "
        "print produce promote propagate propose publish purchase put quote rank rate read recognize recommend recreate refer "
        "relate remove repeat replace replicate report reproduce request research respond reveal review rewrite ridicule save "
        "say scan search select sell send share show simulate speak spread start state store support take target teach tell "
        "trace track transcribe translate try turn upload urge use verify view vote warn watch zoom"
    )
)
"""Verbs that open an order."""

PLAIN_VERBS = _set(
    "advertise aim appear be belong bring come communicate contain contribute convey create deduce depict describe emphasize "
    "encourage evoke exhibit expect express feature feel focus form get give gather guess have highlight hold identify "
    "illustrate imply indicate infer involve learn lead make mean need notice observe occur offer play portray promote provide "
    "recommend reflect represent reveal say see seem serve share show signify spot stand suggest symbolize take tell think "
    "use value wear"
)
"""Verbs in their plain form that stand after the subject of a question."""
ADVERBS = frozenset({"also", "often", "always", "most"})
"""What may stand between subject and verb, beside words in -ly."""
NOT_PARTICIPLES = _set(
    "anything being building ceiling clothing drawing dwelling everything evening king lighting meaning morning nothing "
    "painting ring setting sibling something spring string thing wedding wing writing"
)
"""Words in -ing that are nouns."""

from tests.kinds import kind

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "ray")

from .term import ConceptTerm as ConceptTerm

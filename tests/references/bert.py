"""Names of BERT in the transformers package."""

from references.reference import Reference
from tinyvit.models.bert import Bert, BertConfig, BertForMaskedLM, BertForPreTraining

MODELS = {
    ("transformers", "BertForPreTraining"): Reference(BertForPreTraining, BertConfig, takes=lambda ids: ids),
    ("transformers", "BertForMaskedLM"): Reference(BertForMaskedLM, BertConfig, takes=lambda ids: ids),
    ("transformers", "BertModel"): Reference(Bert, BertConfig, takes=lambda ids: ids),
}

"""What jobs leave behind: files, where they lie, what they say, and what decides them."""

from spaceevo.artifacts.files import Plain as Plain
from spaceevo.artifacts.files import atomic_path as atomic_path
from spaceevo.artifacts.files import cache_folder as cache_folder
from spaceevo.artifacts.files import file_hash as file_hash
from spaceevo.artifacts.files import fingerprint as fingerprint
from spaceevo.artifacts.files import read_json as read_json
from spaceevo.artifacts.files import write_bytes as write_bytes
from spaceevo.artifacts.files import write_csv as write_csv
from spaceevo.artifacts.files import write_json as write_json
from spaceevo.artifacts.files import write_text as write_text
from spaceevo.artifacts.identity import Component as Component
from spaceevo.artifacts.identity import Neutral as Neutral
from spaceevo.artifacts.identity import constructors as constructors
from spaceevo.artifacts.identity import declared_types as declared_types
from spaceevo.artifacts.identity import differences as differences
from spaceevo.artifacts.identity import identity as identity
from spaceevo.artifacts.identity import leaves as leaves
from spaceevo.artifacts.identity import takes_more as takes_more
from spaceevo.artifacts.records import FRONT_FILE as FRONT_FILE
from spaceevo.artifacts.records import RESULT_FILE as RESULT_FILE
from spaceevo.artifacts.records import Front as Front
from spaceevo.artifacts.records import FrontSubnet as FrontSubnet
from spaceevo.artifacts.records import Layout as Layout
from spaceevo.artifacts.records import SpaceChoice as SpaceChoice
from spaceevo.artifacts.records import StageResult as StageResult
from spaceevo.artifacts.records import parse_record as parse_record

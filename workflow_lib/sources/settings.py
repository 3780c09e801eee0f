"""How data are fetched; free of heavy imports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FetchSettings(BaseModel):
    """Patience and care of a fetch; times in seconds, sizes in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(4, ge=1, le=16, description="files downloaded at once")
    attempts: int = Field(6, ge=1, le=50, description="tries in a row that bring no new bytes")
    connect_timeout: float = Field(15, gt=0, description="s until a host has to answer")
    stall_timeout: float = Field(60, gt=0, description="s without (enough) data until a new try")
    minimum_rate: float = Field(200, ge=0, description="bytes/s; a slower connection counts as stalled")
    backoff: float = Field(1, ge=0, description="s before the second try; doubles with every further one")
    max_backoff: float = Field(60, ge=0, description="s, the longest wait the program chooses itself")
    max_retry_after: float = Field(900, ge=0, description="s, the longest wait a host may ask for")
    lock_wait: float = Field(3600, ge=0, description="s to wait for another fetch into the same folder")
    verify: bool = Field(False, description="hash all files again, also those that look unchanged")
    unpack: bool = Field(True, description="unpack zip and tar archives")
    max_ratio: float = Field(
        200,
        gt=1,
        description="an archive that claims to unpack to more than this times its size is refused",
    )

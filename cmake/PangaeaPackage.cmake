# The Debian package: `cmake --build --preset release --target package`, which deploy/cluster installs.
install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/pangaead.service DESTINATION lib/systemd/system)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/60-pangaea.rules DESTINATION lib/udev/rules.d)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/pangaea.tmpfiles RENAME pangaea.conf
  DESTINATION lib/tmpfiles.d)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME pangaea)
set(CPACK_PACKAGE_CONTACT "Pangaea maintainers <maintainers@pangaea.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "guests that span machines, PVM jobs across them, live migration")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "Joins stock Linux hosts into one cluster: the agent pangaead,
the command pangaea, the virtual machine monitor, and a Parallel Virtual Machine (PVM) daemon,
console and library.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR}/pvm)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "passwd, iproute2")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "ibverbs-providers, qemu-utils")
# Opened at run time where it is (node/libvirt/virt_lib.h).
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libvirt0, libvirt-daemon-system")
# The drop-in for PVM 3.4.6 has its file names.
set(CPACK_DEBIAN_PACKAGE_PROVIDES "libpvm3 (= 3.4.6-5), pvm (= 3.4.6-5)")
set(CPACK_DEBIAN_PACKAGE_CONFLICTS "pvm, libpvm3, pvm-dev")
set(CPACK_DEBIAN_PACKAGE_REPLACES "pvm, libpvm3, pvm-dev")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/postinst
  ${CMAKE_SOURCE_DIR}/deploy/debian/prerm ${CMAKE_SOURCE_DIR}/deploy/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
